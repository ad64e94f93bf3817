"""Files on this machine's disks or behind URLs, read by the range, and what is kept beside to find an item in them."""
