"""Images and episodes: folders, packed files, known sets, and the sampler that draws tasks from them."""
