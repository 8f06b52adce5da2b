/** Where an entry of the palette goes when it is added without the mouse: at what is selected. */
import type { Insert } from "../protocol";
import type { State } from "../store";

export function insertion(state: State, what: string): Insert {
  const begun: Insert = { type: "insert", what, path: state.path };
  const holder = (path: string) => state.nodes.get(path)?.parent ?? state.path;

  const [wireId] = state.selectedWires;
  const wire = state.selectedWires.size === 1 && !state.selection.size ? state.wires.get(wireId!) : undefined;
  if (wire) return { ...begun, path: holder(wire.target.path), wire: wire.target };

  const [path] = state.selection;
  const node = state.selection.size === 1 ? state.nodes.get(path!) : undefined;
  if (!node) return begun;
  if (node.kind === "frame") return { ...begun, path: node.path };
  const output = node.outputs[0];
  return output ? { ...begun, path: holder(node.path), source: { path: node.path, port: output.name } } : { ...begun, path: holder(node.path) };
}
