/** A shape in the model's own sizes, and beneath it in numbers. */
import type { ReactNode } from "react";

import type { Shape } from "../protocol";

export function ShapeText({ shape }: { shape: Shape | null | undefined }): ReactNode {
  if (!shape) return <code className="cp-shape">shape not known</code>;
  const symbolic = shape.symbolic.join(", ");
  const actual = shape.actual.join(", ");
  return <code className="cp-shape">[{symbolic}]{actual !== symbolic && <i>[{actual}]</i>}</code>;
}
