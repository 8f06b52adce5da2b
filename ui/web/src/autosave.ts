/** Keep work in the browser: across reloads of this tab, and on offer to the next one when this tab is lost. */
import type { Keep } from "./transport";

const PREFIX = "canvas-rt:work:";
const BROKEN = "canvas-rt:unreadable:";
const TAB = "canvas-rt:session";
const MOST = 24;
const OLDEST = 14 * 24 * 3600 * 1000;

export interface Kept {
  session: string;
  name: string;
  time: number;
  keep: Keep;
}

/** A browser's storage, or nothing where the page may have none: every touch of it may throw. */
class Drawer {
  constructor(private readonly storage: () => Storage) {}

  get(key: string): string | null {
    try {
      return this.storage().getItem(key);
    } catch {
      return null;
    }
  }

  put(key: string, text: string): boolean {
    try {
      this.storage().setItem(key, text);
      return true;
    } catch {
      return false;
    }
  }

  drop(key: string): void {
    try {
      this.storage().removeItem(key);
    } catch {}
  }

  keys(): string[] {
    try {
      const storage = this.storage();
      return Array.from({ length: storage.length }, (_, index) => storage.key(index) ?? "");
    } catch {
      return [];
    }
  }
}

const local = new Drawer(() => localStorage);
const tab = new Drawer(() => sessionStorage);

function read(key: string): Kept | null {
  try {
    const kept = JSON.parse(local.get(key) ?? "null") as Kept | null;
    return kept && kept.keep ? kept : null;
  } catch {
    return null;
  }
}

function all(): Kept[] {
  const found = local.keys().filter((key) => key.startsWith(PREFIX)).map(read);
  return found.filter((kept): kept is Kept => kept !== null).sort((a, b) => b.time - a.time);
}

export function load(session: string): Kept | null {
  return read(PREFIX + session);
}

/** Keep a tab's work; false where the browser has no room for it. */
export function store(session: string, name: string, keep: Keep): boolean {
  const kept = (part: Keep) => local.put(PREFIX + session, JSON.stringify({ session, name, time: Date.now(), keep: part } satisfies Kept));
  // Where it is full the history goes first. The work of other tabs is theirs.
  return kept(keep) || kept({ ...keep, autosave: keep.autosave && { ...keep.autosave, undo: [] } });
}

export function forget(session: string): void {
  local.drop(PREFIX + session);
}

/** Put work aside that the server cannot read: it is not offered again, and not lost. */
export function putAside(session: string): void {
  const text = local.get(PREFIX + session);
  if (text !== null && local.put(BROKEN + session, text)) local.drop(PREFIX + session);
}

/** Hold a session for as long as this tab lives; false where another tab has it (a tab that was duplicated). */
function hold(session: string): Promise<boolean> {
  if (!navigator.locks) return Promise.resolve(true); // plain http to another machine has none
  return new Promise((answer) => {
    const held = navigator.locks.request(PREFIX + session, { ifAvailable: true }, (lock) => {
      answer(lock !== null);
      return lock ? new Promise(() => {}) : undefined;
    });
    held.catch(() => answer(true)); // a frame that may not lock
  });
}

function fresh(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** This tab's session, and the work that it may go on with. */
export async function claim(): Promise<{ session: string; kept: Kept | null; reloaded: boolean }> {
  for (const old of all().slice(MOST)) forget(old.session);
  const known = tab.get(TAB);
  if (known && (await hold(known))) return { session: known, kept: load(known), reloaded: true };
  const session = fresh();
  tab.put(TAB, session);
  await hold(session);
  return { session, kept: known ? load(known) : null, reloaded: false };
}

/** Work of tabs that are gone, newest first. */
export async function orphans(session: string): Promise<Kept[]> {
  const held = new Set((await locks()).map((lock) => lock.name));
  return all().filter((kept) => {
    const age = Date.now() - kept.time;
    if (age > OLDEST) forget(kept.session);
    return kept.session !== session && age <= OLDEST && kept.keep.autosave !== null && !held.has(PREFIX + kept.session);
  });
}

async function locks(): Promise<LockInfo[]> {
  try {
    return (await navigator.locks.query()).held ?? [];
  } catch {
    return [];
  }
}
