"""The GPU's memory, streams and graphs, without PyTorch: on NVIDIA's cuda-core, which is imported when a GPU is opened.

What decides that results are right is the order of work:

1. Each executor works on a stream of its own, one call at a time, so everything inside an executor is in order.
2. What an executor reads is ready before: its stream waits for the event after the last write of the array. An array of
   ours has that event since it was written, and so its memory is never touched before its allocation; a foreign one
   is taken by `__dlpack__(stream=s)`, which makes its producer order its own work before s, and gets the event on s.
3. What an executor reads stays until it was read: an event recorded after the read is added to the array's memory.
   Memory of ours waits for it before it is freed; the owner of foreign memory is kept referenced until it has passed.
4. What others read of ours is ready before: `__dlpack__(stream=s)` makes s wait for the event after the last write,
   or the host, where a graph is being recorded from s.
   A numpy array is returned only after the host has waited for that event.
5. Memory is freed in the order of the stream it was allocated on, after waiting for every reader that is known. torch
   drops a tensor while its kernels are still queued, so memory that was handed out is freed after an event that is
   then recorded on each stream that a consumer named in `__dlpack__`. A consumer that named none has the order in its
   own hands by both protocols: such memory is freed at the next allocation, after what is queued by then on the
   legacy default stream, which waits for all blocking streams, and on the stream of `__cuda_array_interface__`. So it
   remains that who names no stream and works on a non-blocking one keeps the array until that work is done.
6. Nothing is asked of the whole context, and no stream is recorded from: others may be recording a graph, as
   `torch.cuda.graph` does, which that would break off. While a consumer's stream is being recorded from, memory that
   waits for it is kept, and tried again at each allocation.
"""

from .array import CudaArray
from .dlpack import Kept, borrow
from .layer import DeviceLayer, Event, Graph, HostMemory, Memory, Stream
from .opening import compute_capability, gpu_name, missing, open_device
from .staging import StagingPool

__all__ = [
    "CudaArray",
    "DeviceLayer",
    "Event",
    "Graph",
    "HostMemory",
    "Kept",
    "Memory",
    "StagingPool",
    "Stream",
    "borrow",
    "compute_capability",
    "gpu_name",
    "missing",
    "open_device",
]
