"""The models that a config makes, and the values that they are made at."""

from canvas_rt.importer.factory import StockFactory, field_values
from canvas_rt.importer.models import Models
from canvas_rt.importer.small import small_config


def test_a_field_that_its_class_overwrites_keeps_what_was_given() -> None:
    given = {name: value for name, value in small_config("bailing_hybrid").items() if name != "model_type"}
    found = Models(StockFactory("bailing_hybrid"), given, "bailing_hybrid")
    assert field_values(found.config)["head_dim"] == given["qk_rope_head_dim"] == 8
    assert found.values["head_dim"] == given["head_dim"] == 16
