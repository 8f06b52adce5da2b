/** Keep work in the browser: across reloads of this tab, and on offer to the next one when this tab is lost. */
import type { Keep } from "./transport";

const PREFIX = "canvas-rt:work:";
const TAB = "canvas-rt:session";
const MOST = 8;
const OLDEST = 14 * 24 * 3600 * 1000;

export interface Kept {
  session: string;
  name: string;
  time: number;
  keep: Keep;
}

function read(key: string): Kept | null {
  try {
    const kept = JSON.parse(localStorage.getItem(key) ?? "null") as Kept | null;
    return kept && kept.keep ? kept : null;
  } catch {
    return null;
  }
}

function all(): Kept[] {
  const keys = Array.from({ length: localStorage.length }, (_, index) => localStorage.key(index)!);
  const found = keys.filter((key) => key.startsWith(PREFIX)).map(read);
  return found.filter((kept): kept is Kept => kept !== null).sort((a, b) => b.time - a.time);
}

export function load(session: string): Kept | null {
  return read(PREFIX + session);
}

export function store(session: string, name: string, keep: Keep): void {
  const text = JSON.stringify({ session, name, time: Date.now(), keep } satisfies Kept);
  for (const old of all().slice(MOST)) localStorage.removeItem(PREFIX + old.session);
  try {
    localStorage.setItem(PREFIX + session, text);
  } catch {
    // Full: what other tabs left goes first, then the history; a page that may store nothing works all the same.
    for (const other of all()) if (other.session !== session) localStorage.removeItem(PREFIX + other.session);
    try {
      localStorage.setItem(PREFIX + session, text);
    } catch {}
  }
}

export function forget(session: string): void {
  localStorage.removeItem(PREFIX + session);
}

/** Hold a session for as long as this tab lives; false where another tab has it (a tab that was duplicated). */
function hold(session: string): Promise<boolean> {
  if (!navigator.locks) return Promise.resolve(true); // plain http to another machine has none
  return new Promise((answer) => {
    void navigator.locks.request(PREFIX + session, { ifAvailable: true }, (lock) => {
      answer(lock !== null);
      return lock ? new Promise(() => {}) : undefined;
    });
  });
}

function fresh(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** This tab's session, and the work that it may go on with. */
export async function claim(): Promise<{ session: string; kept: Kept | null; reloaded: boolean }> {
  const known = sessionStorage.getItem(TAB);
  if (known && (await hold(known))) return { session: known, kept: load(known), reloaded: true };
  const session = fresh();
  sessionStorage.setItem(TAB, session);
  await hold(session);
  return { session, kept: known ? load(known) : null, reloaded: false };
}

/** Work of tabs that are gone, newest first. */
export async function orphans(session: string): Promise<Kept[]> {
  const held = new Set((navigator.locks ? (await navigator.locks.query()).held : [])?.map((lock) => lock.name));
  return all().filter((kept) => {
    const age = Date.now() - kept.time;
    if (age > OLDEST) forget(kept.session);
    return kept.session !== session && age <= OLDEST && kept.keep.autosave !== null && !held.has(PREFIX + kept.session);
  });
}
