"""What a module that keeps a state is told by its document, beside the fields that it reads."""

import torch
from transformers import FalconH1Config
from transformers.models.falcon_h1.modeling_falcon_h1 import FalconH1Mixer, compute_mup_vector

from canvas_rt.importer.stateful import given_buffers
from canvas_rt.ops.modules import buffer_of

FACTORS = [0.35, 0.25, 0.17, 0.5, 0.37]
CONFIG = FalconH1Config(
    hidden_size=16,
    mamba_d_ssm=16,
    mamba_n_heads=4,
    mamba_d_head=4,
    mamba_n_groups=2,
    mamba_d_state=3,
    ssm_multipliers=FACTORS,
)


def test_a_tensor_that_the_model_gives_its_module_is_said_in_parts() -> None:
    mixer = FalconH1Mixer(CONFIG, layer_idx=0)
    assert given_buffers(mixer, CONFIG.to_dict()) == {}
    mixer.register_buffer("mup_vector", compute_mup_vector(CONFIG).bfloat16(), persistent=False)
    (found,) = given_buffers(mixer, CONFIG.to_dict()).values()
    assert found == {"sizes": [16, 16, 6, 6, 4], "values": FACTORS, "rank": 3}
    assert torch.equal(buffer_of(found, torch.device("cpu")), compute_mup_vector(CONFIG))
