"""A board's session that does what ~/deeds says in place of what it is asked (the forced command of an sshd)."""

import json
import os
import re
import sys
import time

order = os.environ["SSH_ORIGINAL_COMMAND"]
asked = re.search(r" (begin|attach|receive) run-[0-9a-f]{16} (\d+)$", order)
part = "look" if order == "sh" else asked[1] if asked else "other"
with open("orders", "a") as file:
    file.write(order + "\0")
with open("deeds") as file:
    deeds = json.load(file)[part]
for deed, *words in deeds:
    sys.stdout.flush()
    if deed == "say":
        sys.stdout.buffer.write(words[0].encode("utf-8", "surrogatepass"))
    elif deed == "complain":
        print(words[0], file=sys.stderr, flush=True)
    elif deed == "forever":
        stream = sys.stderr if words[1:] else sys.stdout
        while True:
            stream.write(words[0] * 4096)
    elif deed == "until":
        while (line := sys.stdin.readline()) and not line.startswith((words[0], "stop")):
            pass
    elif deed == "take":
        sys.stdout.write(f"gems-edge-have 0\n{'gems-edge-have ' + asked[2]}\n")
    elif deed == "sleep":
        time.sleep(words[0])
    elif deed == "exit":
        os._exit(words[0])
sys.stdout.flush()
