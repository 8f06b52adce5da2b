/** What is wrong with the model, worst first, each with a way to its place. */
import type { ReactNode } from "react";

import type { Problem } from "../protocol";
import { useCanvas } from "../store";
import { Icon } from "./icons";
import { PathText } from "./PathText";

export function Problems(): ReactNode {
  const problems = useCanvas((state) => state.problems);
  return (
    <section className="cp-problems" aria-label="Problems" data-testid="problems">
      <h2 className="cp-heading">Problems {problems.length > 0 && <span className="cp-count">{problems.length}</span>}</h2>
      {problems.length ? (
        <ul className="cv-scroll">
          {problems.map((problem, index) => <li key={index}><ProblemRow problem={problem} /></li>)}
        </ul>
      ) : (
        <p className="cp-fine"><Icon name="check" size={14} />No problems: all shapes agree</p>
      )}
    </section>
  );
}

/** `at`: the node that is looked at, whose path need not be said again. */
export function ProblemRow({ problem, at }: { problem: Problem; at?: string }): ReactNode {
  return (
    <button
      type="button" className="cp-problem" data-severity={problem.severity} data-testid="problem"
      onClick={() => void useCanvas.getState().reveal(problem.level, problem.node)}
    >
      <span className="cp-severity" data-severity={problem.severity}><Icon name={problem.severity} size={14} /></span>
      <span>
        <span className="cv-unseen">{problem.severity}: </span>
        {problem.path !== at && <PathText path={problem.path || "the model"} />}
        <b>{problem.message}</b>
        {problem.hint && <span>{problem.hint}</span>}
      </span>
    </button>
  );
}
