"""A session keeps one document's history and knows its costs."""

from canvas_rt import open_zoo
from canvas_rt.edits import AddNode, SetSize
from canvas_rt.ir.document import Node
from canvas_rt.session import MOST_STEPS, Session, Setting

LLAMA = open_zoo("llama-3.2-1b")


def heads(value: int) -> list[SetSize]:
    return [SetSize("", "num_key_value_heads", value)]


def test_undo_and_redo_walk_the_same_documents() -> None:
    session = Session.begin(LLAMA)
    documents = [LLAMA]
    for value in (4, 2, 1):
        session.edit(heads(value))
        documents.append(session.document)
    for expected in reversed(documents[:-1]):
        session.undo()
        assert session.document == expected
    session.undo()  # nothing is left to take back
    for expected in documents[1:]:
        session.redo()
        assert session.document == expected


def test_one_gesture_is_one_step_and_its_last_edit_counts() -> None:
    session = Session.begin(LLAMA)
    for value in (4, 2, 16):
        session.edit(heads(value), gesture="drag")
    assert session.document.sizes["num_key_value_heads"] == 16
    assert len(session.document.log) == 1
    session.undo()
    assert session.document == LLAMA


def test_an_edit_that_changes_nothing_is_no_step() -> None:
    session = Session.begin(LLAMA)
    session.edit([])
    assert session.past == []


def test_a_new_edit_forgets_what_was_taken_back() -> None:
    session = Session.begin(LLAMA)
    session.edit(heads(4))
    session.undo()
    session.edit(heads(2))
    session.redo()
    assert session.document.sizes["num_key_value_heads"] == 2


def test_the_history_is_bounded() -> None:
    session = Session.begin(LLAMA)
    for value in range(1, MOST_STEPS + 20):
        session.edit([SetSize("", "vocab_size", value)])
    assert len(session.past) == MOST_STEPS


def test_a_history_as_data_leads_back_through_the_same_documents() -> None:
    session = Session.begin(LLAMA)
    session.edit(heads(4))
    session.edit([AddNode("model", Node(id="extra", op="add"))])
    again = Session.begin(session.document)
    again.retrace(session.way_back(10))
    for _ in range(2):
        session.undo()
        again.undo()
        assert again.document == session.document
    assert again.document == LLAMA


def test_a_history_of_another_document_is_left_out() -> None:
    session = Session.begin(LLAMA)
    session.edit(heads(4))
    session.open(open_zoo("llama-2-7b"))
    assert session.way_back(10) == []
    session.undo()
    assert session.document.sizes["num_key_value_heads"] == 4


def test_nonsense_is_no_history() -> None:
    session = Session.begin(LLAMA)
    session.retrace([{"words": "x"}, 7, None])
    session.retrace([{"words": "x", "edit": {"kind": "remove_node", "path": "no"}}])
    assert session.past == []


def test_costs_are_null_while_shapes_disagree_but_parameters_are_counted() -> None:
    session = Session.begin(LLAMA)
    assert session.state.report is not None
    session.edit(heads(5))
    assert session.state.report is None
    assert session.state.parameters == 1_235_814_400 - 16 * 2 * 3 * 64 * 2048


def test_another_scenario_costs_something_else() -> None:
    session = Session.begin(LLAMA)
    train = session.state.report
    session.run_as(Setting(hardware="h100-80gb", mode="decode", batch=4))
    decode = session.state.report
    assert train and decode
    assert decode.memory.kv_cache > 0 and decode.memory.optimizer == 0
    assert session.revision == 0
