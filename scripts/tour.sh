#!/bin/sh
# The main job on a real config: import, edit, check, measure, emit, verify, compare. Leaves its results in tour/.
set -eu
BIN=${BIN:-.venv/bin}
mkdir -p tour
run() { printf '\n$ canvas-rt %s\n' "$*"; "$BIN/canvas-rt" "$@"; }
run show llama-3.1-8b
run import model_zoo/llama/configs/llama-3.1-8b.json -o tour/mine.canvas.json
run edit tour/mine.canvas.json --set model.layers.8-15.self_attn.num_key_value_heads=4 -o tour/edited.canvas.json
run check tour/edited.canvas.json
run measure tour/edited.canvas.json --hardware a100-80gb --mode train --batch 1 --sequence 4096
run emit tour/edited.canvas.json -o tour/out
run verify tour/out
run diff tour/mine.canvas.json tour/edited.canvas.json
