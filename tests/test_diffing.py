"""What tells two documents apart."""

from canvas_rt import Document, apply, diff
from canvas_rt.edits import DeleteLayers, DuplicateLayers, RenameNode, SetAttr, SetSize


def changes(before: Document, after: Document) -> list[str]:
    found = diff(before, after, sequence=16)
    return [str(change) for change in (*found.values, *found.structure)]


def test_a_document_is_the_same_as_itself(small_llama: Document) -> None:
    assert diff(small_llama, small_llama, sequence=16).same


def test_a_size_of_some_layers_shows_the_settings_that_follow(small_llama: Document) -> None:
    edited = apply(small_llama, SetSize("model.layers.1-2.self_attn", "num_key_value_heads", 3))
    assert changes(small_llama, edited) == [
        "~ model.layers.1-2.self_attn.k_proj: out_features 16 → out_features 24",
        "~ model.layers.1-2.self_attn.k: heads 2 → heads 3",
        "~ model.layers.1-2.self_attn.v_proj: out_features 16 → out_features 24",
        "~ model.layers.1-2.self_attn.v: heads 2 → heads 3",
    ]


def test_a_window_is_one_line(small_llama: Document) -> None:
    edited = apply(small_llama, SetAttr("model.layers.0.self_attn.attention", "window", 6))
    assert changes(small_llama, edited) == ["~ model.layers.0.self_attn.attention: window none → window 6"]


def test_layers_are_matched_by_where_they_come_from(small_llama: Document) -> None:
    edited = apply(small_llama, DeleteLayers("model.layers.1"))
    found = diff(small_llama, edited, sequence=16)
    assert {change.path.split(".")[2] for change in found.structure} == {"1"}
    assert all(not change.after for change in found.structure)
    copied = diff(small_llama, apply(small_llama, DuplicateLayers("model.layers.1")), sequence=16)
    assert all(not change.before for change in copied.structure)


def test_costs_are_told_before_and_after(small_llama: Document) -> None:
    found = diff(small_llama, apply(small_llama, DeleteLayers("model.layers.1")), sequence=16)
    assert (
        found.costs["parameters"][0] - found.costs["parameters"][1] == 48 * (48 + 16 + 16 + 48) + 3 * 48 * 80 + 2 * 48
    )


def test_a_name_is_a_node_gone_and_a_node_new(small_llama: Document) -> None:
    lines = changes(small_llama, apply(small_llama, RenameNode("model.norm", "final")))
    assert [line[:14] for line in lines if "odel.norm" in line or "odel.final" in line] == [
        "- model.norm: ",
        "+ model.final:",
    ]
