"""How large a piece of memory is."""

_BLOCK_BYTES = 512  # the CUDA allocator hands out memory in multiples of this


def rounded_bytes(count: int) -> int:
    """Returns a storage's size in bytes as the CUDA allocator would count it."""
    return -(-count // _BLOCK_BYTES) * _BLOCK_BYTES
