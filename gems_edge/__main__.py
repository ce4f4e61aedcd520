from gems_edge.cli.main import main

main()
