/** The layout, off the page's thread. */
import { nested } from "./nested";
import type { Task } from "./types";

const post = self.postMessage as (message: unknown) => void;

self.onmessage = (event: MessageEvent<{ id: number; task: Task }>) => {
  const { id, task } = event.data;
  try {
    post({ id, answer: nested(task) });
  } catch (error) {
    post({ id, error: String(error) });
  }
};
