"""How fast a pipeline trains under each dtype policy, and how fast an export answers in each runtime.

Every row of a table is measured by a process of its own (`tfhalf.bench.fresh`, `tfhalf.bench.worker`): no row inherits
another's memory, threads, XLA programs or TF32 state.
"""
