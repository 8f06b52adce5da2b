"""PyTorch's caching allocator, as plainly as it can be written: each segment is a list, every search looks at all.

It follows `malloc`, `get_free_block`, `alloc_block`, `try_allocate_expandable_block`, `map_block`, `free_block`,
`release_blocks` and `unmap_block` of c10/cuda/CUDACachingAllocator.cpp step by step, and is there to be compared with.
"""

from dataclasses import dataclass, field

from canvas_rt.physics.allocator import ENDLESS, MIB, segment_size

USED, FREE, UNMAPPED = "used", "free", "unmapped"


@dataclass(eq=False)
class Block:
    address: int
    size: int
    state: str


@dataclass(eq=False)
class Segment:
    small: bool
    blocks: list[Block]


@dataclass
class Literal:
    capacity: int | None
    expandable: bool
    allocated: int = 0
    reserved: int = 0
    peak_allocated: int = 0
    peak_reserved: int = 0
    segments: int = 0
    retries: int = 0
    out_of_memory: bool = False
    held: list[Segment] = field(default_factory=list)
    next_address: int = 0

    def __post_init__(self) -> None:
        if self.expandable:
            self.held = [
                Segment(small, [Block(address, ENDLESS, UNMAPPED)]) for small, address in ((True, 0), (False, ENDLESS))
            ]

    def allocate(self, size: int) -> Block:
        small = size <= MIB
        block = self._get_free_block(small, size) or self._alloc_block(small, size, self.capacity)
        if block is None:
            self._release_cached_blocks()
            self.retries += 1
            block = self._alloc_block(small, size, self.capacity)
        if block is None:
            self.out_of_memory = True
            block = self._alloc_block(small, size, None)
        assert block is not None
        self._split(block, size, least=512 if small or self.expandable else MIB + 512)
        block.state = USED
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block

    def release(self, block: Block) -> None:
        self.allocated -= block.size
        block.state = FREE
        self._merge(block)

    def _segment(self, block: Block) -> Segment:
        return next(segment for segment in self.held if any(other is block for other in segment.blocks))

    def _split(self, block: Block, size: int, least: int = 1) -> None:
        if block.size - size >= least:
            blocks = self._segment(block).blocks
            rest = Block(block.address + size, block.size - size, block.state)
            blocks.insert(blocks.index(block) + 1, rest)
            block.size = size

    def _merge(self, block: Block) -> None:
        """Neighbours in the same state become one, which the block is."""
        blocks = self._segment(block).blocks
        index = blocks.index(block)
        if index + 1 < len(blocks) and blocks[index + 1].state == block.state:
            block.size += blocks.pop(index + 1).size
        if index and blocks[index - 1].state == block.state:
            other = blocks.pop(index - 1)
            block.address, block.size = other.address, block.size + other.size

    def free(self, small: bool) -> list[Block]:
        found = [
            block for segment in self.held if segment.small == small for block in segment.blocks if block.state == FREE
        ]
        return sorted(found, key=lambda block: (block.size, block.address))

    def _get_free_block(self, small: bool, size: int) -> Block | None:
        fitting = [block for block in self.free(small) if block.size >= size]
        if not fitting:
            return None
        index = 0
        while index + 1 < len(fitting) and self._room(fitting[index + 1]) < self._room(fitting[index]):
            index += 1
        return fitting[index]

    def _room(self, block: Block) -> int:
        blocks = self._segment(block).blocks
        index = blocks.index(block)
        grows = index + 1 < len(blocks) and blocks[index + 1].state == UNMAPPED
        return block.size + (blocks[index + 1].size if grows else 0)

    def _alloc_block(self, small: bool, size: int, capacity: int | None) -> Block | None:
        if self.expandable:
            return self._expand(self.held[0 if small else 1], size, capacity)
        wanted = segment_size(size, small)
        if not self._driver_has(wanted, capacity):
            return None
        block = Block(self.next_address, wanted, FREE)
        self.next_address += wanted
        self.held.append(Segment(small, [block]))
        return block

    def _driver_has(self, wanted: int, capacity: int | None) -> bool:
        if capacity is not None and self.reserved + wanted > capacity:
            return False
        self.segments += 1
        self.reserved += wanted
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return True

    def _expand(self, segment: Segment, size: int, capacity: int | None) -> Block | None:
        blocks = segment.blocks
        start = self._first_room(blocks, size)
        if blocks[start].state == UNMAPPED:
            block = self._map(segment, blocks[start], min(size, blocks[start].size), capacity)
        else:
            block = blocks[start]
        while block is not None and block.size < size:
            hole = blocks[blocks.index(block) + 1]
            block = self._map(segment, hole, min(size - block.size, hole.size), capacity)
        return block

    def _first_room(self, blocks: list[Block], size: int) -> int:
        for index, hole in enumerate(blocks):
            if hole.state == UNMAPPED:
                start = index - 1 if index and blocks[index - 1].state == FREE else index
                end, room = start, 0
                while end < len(blocks) and blocks[end].state != USED and room < size:
                    room, end = room + blocks[end].size, end + 1
                if room >= size:
                    return start
        raise AssertionError

    def _map(self, segment: Segment, hole: Block, size: int, capacity: int | None) -> Block | None:
        granule = 2 * MIB if segment.small else 20 * MIB
        wanted = (size + granule - 1) // granule * granule
        if not self._driver_has(wanted, capacity):
            return None
        self._split(hole, wanted)
        hole.state = FREE
        self._merge(hole)
        return hole

    def _release_cached_blocks(self) -> None:
        for segment in tuple(self.held):
            if self.expandable:
                for block in [block for block in segment.blocks if block.state == FREE]:
                    self._unmap(block, 2 * MIB if segment.small else 20 * MIB)
            elif len(segment.blocks) == 1 and segment.blocks[0].state == FREE:
                self.held.remove(segment)
                self.reserved -= segment.blocks[0].size

    def _unmap(self, block: Block, granule: int) -> None:
        end = (block.address + block.size) // granule * granule
        start = (block.address + granule - 1) // granule * granule
        if start >= end:
            return
        self._split(block, end - block.address)
        if start > block.address:
            blocks = self._segment(block).blocks
            self._split(block, start - block.address)
            block = blocks[blocks.index(block) + 1]
        self.reserved -= block.size
        block.state = UNMAPPED
        self._merge(block)
