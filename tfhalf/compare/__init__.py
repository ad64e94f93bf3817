"""``tfhalf compare``: many runs of one pipeline side by side, and what half precision costs and buys there.

`plan` says which cells there are, `matrix` runs each in a process of its own (`cell`), `table` puts together what came
of them with the tests of `statistics`, and `report` shows it.
"""
