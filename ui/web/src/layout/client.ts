/** Ask the worker for a layout; where there can be none, lay out here. */
import { nested } from "./nested";
import type { Answer, Task } from "./types";
import LayoutWorker from "./worker?worker&inline";

interface Reply {
  id: number;
  answer?: Answer;
  error?: string;
}

/** Boxes up to which a layout takes a few milliseconds and is done at once: nothing flickers. */
const AT_ONCE = 60;

let worker: Worker | null | undefined;
let count = 0;
const waiting = new Map<number, { task: Task; settle(answer: Answer): void }>();

function start(): Worker | null {
  try {
    const started = new LayoutWorker();
    started.onmessage = (event: MessageEvent<Reply>) => finish(event.data);
    started.onerror = () => {
      // A page's security policy may forbid workers: this one, and all that wait, are done here.
      worker = null;
      for (const id of [...waiting.keys()]) finish({ id });
    };
    return started;
  } catch {
    return null;
  }
}

function finish({ id, answer }: Reply): void {
  const asked = waiting.get(id);
  if (!asked) return;
  waiting.delete(id);
  asked.settle(answer ?? nested(asked.task));
}

/** Lay out: small graphs are answered at once, others by a promise. */
export function layOut(task: Task): Answer | Promise<Answer> {
  if (task.boxes.length <= AT_ONCE) return nested(task);
  if (worker === undefined) worker = start();
  if (!worker) return nested(task);
  const id = ++count;
  return new Promise((settle) => {
    waiting.set(id, { task, settle });
    worker!.postMessage({ id, task });
  });
}
