"""A lock around running a NumPyro function.

NumPyro keeps its stack of handlers in a global variable, so that two functions that run in two
threads at the same time would see each other's sites. Compiled programs need no lock.
"""

import threading

handler_lock = threading.RLock()  # a guide runs its model inside
