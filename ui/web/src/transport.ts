/** Carry requests to the server: one at a time, none lost, none done twice. */
import type { Autosave, Envelope, Hello, Reply } from "./protocol";

export type Request = Envelope["request"];

/** One call of the server. Nothing, or a rejection: it cannot be reached. */
export type Exchange = (envelope: Envelope) => Promise<Reply | null | undefined>;

export type Status = "ready" | "working" | "offline" | "restoring";

/** What can be handed back to a server that has forgotten us: a document, and what was done to it since. */
export interface Keep {
  autosave: Autosave | null;
  /** Changes that the server has confirmed since the autosave. */
  journal: Request[];
  /** Changes that it has not confirmed yet, with the numbers that they were sent under. */
  pending: Sent[];
}

export interface Sent {
  serial: number;
  request: Request;
}

/** Requests that change the document: those done after the autosave are repeated on a server that lost it. */
const CHANGES = new Set<Request["type"]>(["edit", "set", "connect", "insert", "delete", "place", "paste", "undo", "redo", "open"]);

interface Waiting extends Sent {
  settle: ((reply: Reply) => void)[];
}

const PATIENCE = 4;
const UNANSWERABLE = { message: "the server could not answer this request", hint: "It was left out. Undo the last change, or go on." };
const PAUSES = [300, 700, 1500, 3000, 5000];
const pause = (milliseconds: number) => new Promise((done) => setTimeout(done, milliseconds));

export class Channel {
  private queue: Waiting[] = [];
  /** Begins where no former page of this session has been. */
  private serial = Date.now();
  private running = false;

  constructor(
    readonly session: string,
    private readonly exchange: Exchange,
    private keep: Keep,
    private readonly on: {
      status(status: Status): void;
      kept(keep: Keep): void;
      /** Each answer, in order, those of a recovery too. */
      reply(reply: Reply, request: Request): void;
      /** What to say when a session begins anew. */
      hello(): Omit<Hello, "type" | "autosave" | "journal">;
    },
  ) {}

  get kept(): Keep {
    return this.keep;
  }

  /** Leave the kept work that cannot be read. */
  startAfresh(): void {
    this.keep = { autosave: null, journal: [], pending: [] };
  }

  /** Changes that the server has not confirmed yet. */
  get pending(): number {
    return this.queue.filter((waiting) => CHANGES.has(waiting.request.type)).length;
  }

  /** Send a request when its turn comes. One that waits is replaced by a later one of the same gesture. */
  call(request: Request, serial = this.serial++): Promise<Reply> {
    return new Promise((settle) => {
      const last = this.queue.at(-1);
      if (last && this.queue.length > (this.running ? 1 : 0) && supersedes(request, last.request)) {
        last.request = request;
        last.settle.push(settle);
      } else {
        this.queue.push({ request, serial, settle: [settle] });
      }
      if (CHANGES.has(request.type)) this.remember({});
      void this.run();
    });
  }

  private async run(): Promise<void> {
    if (this.running) return;
    this.running = true;
    this.on.status("working");
    while (this.queue.length) {
      const waiting = this.queue[0]!;
      const reply = await this.deliver(waiting);
      this.queue.shift();
      this.note(waiting.request, reply);
      this.on.reply(reply, waiting.request);
      for (const settle of waiting.settle) settle(reply);
    }
    this.running = false;
    this.on.status("ready");
  }

  /** Ask until there is an answer, bringing the server's memory back where it lost it. */
  private async deliver({ request, serial }: Sent): Promise<Reply> {
    for (;;) {
      const reply = await this.attempt({ session: this.session, serial, request });
      if (!reply.error?.lost) return reply;
      this.on.status("restoring");
      const failed = await this.restore();
      if (failed) return failed;
    }
  }

  private async attempt(envelope: Envelope): Promise<Reply> {
    for (let failures = 0; ; failures++) {
      const reply = await this.exchange(envelope).catch(() => null);
      if (reply) {
        if (failures) this.on.status("working");
        return reply;
      }
      if (failures >= PATIENCE && (await this.answersOthers())) {
        // It may have come back just now: only what fails beside others that are answered is given up.
        return (await this.exchange(envelope).catch(() => null)) ?? { ok: false, error: UNANSWERABLE };
      }
      this.on.status("offline");
      await pause(PAUSES[Math.min(failures, PAUSES.length - 1)]!);
    }
  }

  /** Whether the server is there, so that it is this one request that it fails on. */
  private async answersOthers(): Promise<boolean> {
    const probe = await this.exchange({ session: this.session, serial: this.serial++, request: { type: "find", text: "" } }).catch(() => null);
    return Boolean(probe);
  }

  private async restore(): Promise<Reply | null> {
    const hello: Request = { type: "hello", ...this.on.hello(), autosave: this.keep.autosave, journal: this.keep.journal };
    const first = await this.attempt({ session: this.session, serial: this.serial++, request: hello });
    if (!first.ok) return first;
    this.on.reply(first, hello);
    return null;
  }

  private note(request: Request, reply: Reply): void {
    if (reply.autosave) this.remember({ autosave: reply.autosave, journal: [] });
    else if (CHANGES.has(request.type)) {
      this.remember(reply.ok && reply.update ? { journal: extended(this.keep.journal, request) } : {});
    }
  }

  private remember(part: Partial<Keep>): void {
    const pending = this.queue.filter(({ request }) => CHANGES.has(request.type)).map(({ serial, request }) => ({ serial, request }));
    this.keep = { ...this.keep, ...part, pending };
    this.on.kept(this.keep);
  }
}

/** A journal with one more request; of a gesture, the last alone counts. */
function extended(journal: Request[], request: Request): Request[] {
  const last = journal.at(-1);
  return [...(last && supersedes(request, last) ? journal.slice(0, -1) : journal), request];
}

function supersedes(later: Request, earlier: Request): boolean {
  if (later.type === "set" && earlier.type === "set") {
    return later.gesture != null && later.gesture === earlier.gesture && later.field === earlier.field && later.path === earlier.path;
  }
  return later.type === earlier.type && (later.type === "scenario" || later.type === "figures" || later.type === "inspect" || later.type === "save");
}
