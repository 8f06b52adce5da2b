/** Numbers and units as people read them. */

const PREFIXES: [number, string][] = [[1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
const COUNTS: [number, string][] = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];

/** Three digits that matter: `8.03`, `42.0`, `124`. */
function three(value: number): string {
  const size = Math.abs(value);
  return value.toFixed(size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2);
}

function scaled(value: number, units: [number, string][]): string {
  // 999,999 is one million when rounded to three digits, not 1000 k.
  const unit = units.find(([size]) => Math.abs(value) >= size * 0.9995);
  return unit ? `${three(value / unit[0])} ${unit[1]}` : `${Math.round(value)} `;
}

/** Parameters: `8.03 B`, `524 k`. */
export const count = (value: number): string => scaled(value, COUNTS).trimEnd();

/** `1.02 PFLOP`. */
export const flops = (value: number): string => `${scaled(value, PREFIXES)}FLOP`;

/** GB of 2³⁰ bytes, to one decimal; MB where that would read 0.0. */
export function bytes(value: number): string {
  const gigabytes = value / 2 ** 30;
  if (gigabytes >= 0.095 || value === 0) return `${gigabytes.toFixed(1)} GB`;
  const megabytes = value / 2 ** 20;
  return megabytes >= 0.95 ? `${megabytes.toFixed(0)} MB` : `${Math.ceil(value / 1024)} kB`;
}

export function seconds(value: number): string {
  if (value >= 120) return `${(value / 60).toFixed(1)} min`;
  if (value >= 1) return `${three(value)} s`;
  if (value >= 1e-3) return `${three(value * 1e3)} ms`;
  return `${three(value * 1e6)} µs`;
}

export const whole = (value: number): string => Math.round(value).toLocaleString("en-US");

export const rate = (value: number): string => (value >= 100 ? whole(value) : three(value));

export function percent(part: number): string {
  if (part > 0 && part < 0.001) return "< 0.1 %";
  return `${(part * 100).toFixed(1)} %`;
}

/** A setting's number as a person would type it: `1e-5` rather than 0.00001. */
export function plain(value: number): string {
  return value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential().replace("e-0", "e-") : String(value);
}

/** `3 minutes ago`. */
export function ago(time: number, now = Date.now()): string {
  const minutes = Math.max(0, Math.round((now - time) / 60_000));
  if (minutes < 1) return "moments ago";
  const words = new Intl.RelativeTimeFormat("en", { numeric: "always" });
  if (minutes < 60) return words.format(-minutes, "minute");
  if (minutes < 60 * 36) return words.format(-Math.round(minutes / 60), "hour");
  return words.format(-Math.round(minutes / 60 / 24), "day");
}

export const plural = (number: number, one: string, many = `${one}s`): string => `${whole(number)} ${number === 1 ? one : many}`;
