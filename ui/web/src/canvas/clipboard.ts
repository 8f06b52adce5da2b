/** Copy, cut and paste: through the computer's clipboard, so that a clip goes from one tab or model to another. */
import { useCanvas } from "../store";
import { remove, spotAt } from "./commands";
import type { XY } from "./view";

/** What was copied here, where the clipboard may not be read. */
let kept = "";

export async function copy(): Promise<boolean> {
  const { selection, send } = useCanvas.getState();
  if (!selection.size) return false;
  const reply = await send({ type: "copy", paths: [...selection] });
  if (!reply.ok || !reply.clip) return false;
  kept = reply.clip;
  await navigator.clipboard?.writeText(reply.clip).catch(() => {});
  return true;
}

export async function cut(): Promise<void> {
  if (await copy()) await remove(true);
}

/** Paste at a point of the screen; `text` is what the clipboard holds, if the browser tells. */
export async function paste(text: string, screen: XY | null): Promise<void> {
  const clip = looksLikeClip(text) ? text : kept;
  if (!clip) return;
  const { send, path } = useCanvas.getState();
  const spot = screen ? spotAt(screen) : { frame: path, position: null };
  await send({ type: "paste", clip, path: spot.frame, position: spot.position });
}

export async function duplicate(): Promise<void> {
  const { selection, nodes, path, send } = useCanvas.getState();
  const chosen = [...selection];
  if (!chosen.length) return;
  const reply = await send({ type: "copy", paths: chosen });
  if (!reply.ok || !reply.clip) return;
  const frames = new Set(chosen.map((each) => nodes.get(each)?.parent ?? path));
  await send({ type: "paste", clip: reply.clip, path: frames.size === 1 ? [...frames][0]! : path, position: null });
}

/** The server judges clips; text that is not even JSON is something else that was copied meanwhile. */
function looksLikeClip(text: string): boolean {
  return text.trimStart().startsWith("{");
}
