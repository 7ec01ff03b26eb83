"""`coda serve`: a bundle behind the Open Inference Protocol, over REST and gRPC.

A request's way: rest.py or rpc.py (the protocols) -> intake.py (admits, times, counts, logs) -> wire.py and tensors.py
(bytes to checked arrays) -> models.py -> batching.py (joins requests) -> engines.py (a tokenizer a device) -> back.
"""
