"""The consumer: records become effects, once and in order per key.

`loop.py` owns partitions and has their records settled, `batch.py` settles them in one transaction;
`abreast.py` works on keys side by side. It asks the verdict of `order.py`, reads logs and writes to
stores through their ports, and imports nothing of the service, the operators or the command line.
"""
