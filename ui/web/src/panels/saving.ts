/** Take the document out of the page, as a file. */
import { useCanvas } from "../store";

/** A name that every file system takes. */
export const fileName = (name: string): string => `${name.replace(/[^\p{L}\p{N}._-]+/gu, "-").replace(/^[-.]+|[-.]+$/g, "") || "model"}.canvas.json`;

export async function download(): Promise<void> {
  const { send, name, say } = useCanvas.getState();
  const reply = await send({ type: "save" });
  if (!reply.autosave) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([reply.autosave.document], { type: "application/json" }));
  link.download = fileName(name);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  say("done", `Saved as ${link.download}`);
}
