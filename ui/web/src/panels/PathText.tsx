/** A path, or a checkpoint key, in lines that break after its dots: not within `8-15`. */
import type { ReactNode } from "react";

export function PathText({ path }: { path: string }): ReactNode {
  return <code className="cp-path" title={path}>{path.split(/(?<=\.)/).map((part, index) => <span key={index}>{part}</span>)}</code>;
}
