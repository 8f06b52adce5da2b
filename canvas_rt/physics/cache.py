"""How many bytes numbers take in a key/value cache."""


def cache_bytes(count: int, cache: str, item: int) -> int:
    """Bytes that so many numbers take in a cache; integers have a scale and a zero point of 16 bits for each 64."""
    scales = 4 * -(-count // 64)
    match cache:
        case "fp8":
            return count
        case "int8":
            return count + scales
        case "int4":
            return -(-count // 2) + scales
        case _:
            return count * item
