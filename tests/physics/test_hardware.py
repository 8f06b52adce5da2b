"""The table of cards is complete and plausible, and a user's own table is read or refused with the field named."""

import subprocess
import sys
from pathlib import Path

import pytest

from canvas_rt.errors import CanvasError
from canvas_rt.physics.hardware import Hardware, hardware_names, load_hardware

EXPECTED = [
    "a100-80gb",
    "a100-80gb-pcie",
    "a100-40gb",
    "a100-40gb-pcie",
    "h100-80gb",
    "h100-pcie",
    "h100-nvl",
    "h200",
    "b200",
    "l4",
    "l40s",
    "a10",
    "a6000",
    "t4",
    "v100-32gb",
    "rtx-3090",
    "rtx-4090",
    "rtx-5090",
    "mi300x",
    "m3-ultra",
    "m4-max",
]

MY_CARD = """
[my-card]
name = "My card"
architecture = "homemade"
memory_bytes = 16_000_000_000
nominal_gb = 16
bandwidth = 500e9
link_bandwidth = 32e9
power_watts = 200
source = "measured, https://example.org/my-card"
peak_flops = { fp32 = 20e12, bf16 = 80e12 }
"""


@pytest.fixture(params=hardware_names())
def card(request: pytest.FixtureRequest) -> Hardware:
    return load_hardware(request.param)


def is_apple(card: Hardware) -> bool:
    return card.architecture.startswith("apple")


def test_the_names_are_the_cards_we_promise() -> None:
    assert hardware_names() == tuple(sorted(EXPECTED))


def test_a_card_tells_its_source(card: Hardware) -> None:
    assert "https://" in card.source


def test_a_process_gets_most_of_the_nominal_memory_and_never_more(card: Hardware) -> None:
    # macOS lends the GPU three quarters of the shared memory or more; a card of its own loses at most ECC's share.
    least = 0.75 if is_apple(card) else 0.9
    assert least <= card.memory_bytes / (card.nominal_gb * 2**30) <= 1


def test_tensor_cores_are_faster_the_narrower_the_dtype(card: Hardware) -> None:
    peaks = [card.peak_flops[dtype] for dtype in ("fp32", "tf32", "bf16", "fp8") if dtype in card.peak_flops]
    assert peaks == sorted(peaks)
    if "bf16" in card.peak_flops and not is_apple(card):
        assert card.peak_flops["bf16"] > card.peak_flops["fp32"]


def test_16_bit_peaks_agree(card: Hardware) -> None:
    assert card.peak_flops.get("bf16", card.peak_flops["fp16"]) == card.peak_flops["fp16"]


def test_memory_is_faster_than_the_links(card: Hardware) -> None:
    assert card.link_bandwidth < card.bandwidth


def test_dense_peaks_not_sparse_ones() -> None:
    assert load_hardware("a100-80gb").peak_flops["bf16"] == 312e12
    assert load_hardware("h100-80gb").peak_flops["bf16"] == 989.4e12


def test_an_unknown_card_is_met_with_the_nearest_names() -> None:
    with pytest.raises(CanvasError, match=r"hardware: unknown card 'a100-80'\nDid you mean a100-80gb "):
        load_hardware("a100-80")


def test_a_users_file_adds_a_card_and_keeps_ours(tmp_path: Path) -> None:
    file = tmp_path / "cards.toml"
    file.write_text(MY_CARD)
    assert load_hardware("my-card", file=file) == Hardware(
        id="my-card",
        name="My card",
        architecture="homemade",
        memory_bytes=16_000_000_000,
        nominal_gb=16,
        bandwidth=500e9,
        link_bandwidth=32e9,
        power_watts=200,
        source="measured, https://example.org/my-card",
        peak_flops={"fp32": 20e12, "bf16": 80e12},
    )
    assert load_hardware("t4", file=file) == load_hardware("t4")
    with pytest.raises(CanvasError, match="Did you mean my-card"):
        load_hardware("my-cart", file=file)


def test_a_users_card_wins_over_ours(tmp_path: Path) -> None:
    file = tmp_path / "cards.toml"
    file.write_text(MY_CARD.replace("my-card", "t4"))
    assert load_hardware("t4", file=file).name == "My card"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("bandwidth = 500e9", 'bandwidth = "fast"', r"my-card.bandwidth: must be a positive number, not 'fast'"),
        ("bandwidth = 500e9", "bandwidth = inf", r"my-card.bandwidth: must be a positive number, not inf"),
        ("memory_bytes = 16_000_000_000", "memory_bytes = 16e9", r"my-card.memory_bytes: must be a positive whole"),
        ("memory_bytes = 16_000_000_000", "", r"my-card.memory_bytes: is missing"),
        ("power_watts = 200", "power_watts = true", r"my-card.power_watts: must be a positive whole number, not True"),
        ("power_watts = 200", "power_watts = 0", r"my-card.power_watts: must be a positive whole number, not 0"),
        ("power_watts", "power_wats", r"my-card.power_wats: unknown field\nDid you mean power_watts"),
        ("bf16 = 80e12", "bf61 = 80e12", r"my-card.peak_flops.bf61: unknown field\nDid you mean bf16"),
        ("fp32 = 20e12,", "", r"my-card.peak_flops.fp32: is missing"),
        ("{ fp32 = 20e12, bf16 = 80e12 }", "20e12", r"my-card.peak_flops: must be a table, not"),
        ("[my-card]", "[my-card", r"not valid TOML"),
        (MY_CARD, "my-card = 1", r"my-card: must be a table, not 1"),
    ],
)
def test_a_flawed_file_is_refused_with_its_field(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    file = tmp_path / "cards.toml"
    file.write_text(MY_CARD.replace(old, new, 1))
    with pytest.raises(CanvasError, match=rf"cards\.toml: {complaint}"):
        load_hardware("my-card", file=file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CanvasError, match=r"nowhere\.toml: cannot be read"):
        load_hardware("t4", file=tmp_path / "nowhere.toml")


def test_a_card_can_key_a_dictionary() -> None:
    assert {load_hardware("t4"): 1}[load_hardware("t4")] == 1


def test_looking_up_a_card_does_not_import_torch() -> None:
    program = (
        "import sys; from canvas_rt.physics.hardware import load_hardware; load_hardware('t4'); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
