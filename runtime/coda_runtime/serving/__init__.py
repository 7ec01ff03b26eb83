"""`coda serve`: a bundle behind the Open Inference Protocol, over REST and gRPC.

A request's way: rest.py or rpc.py (the protocols) -> admission.py (admits, times, counts, logs) -> wire.py and
tensors.py (bytes to checked arrays) -> models.py -> batching.py (joins requests) -> replicas.py (a tokenizer a device)
-> back.
"""
