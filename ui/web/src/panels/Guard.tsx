/** Keeps a flaw of one panel to itself: the rest of the editor, and the work in it, go on. */
import { Component, type ComponentType, type ReactNode } from "react";

class Guard extends Component<{ name: string; children: ReactNode }, { failed: boolean }> {
  override state = { failed: false };

  static getDerivedStateFromError(): { failed: boolean } {
    return { failed: true };
  }

  override componentDidCatch(error: unknown): void {
    console.error(`canvas: ${this.props.name} failed`, error);
  }

  override render(): ReactNode {
    if (!this.state.failed) return this.props.children;
    return (
      <div className="cp-failed" role="alert">
        <span>{this.props.name} failed. Your work is safe.</span>
        <button type="button" className="cp-button cp-plain" onClick={() => this.setState({ failed: false })}>Show it again</button>
      </div>
    );
  }
}

export function guarded(name: string, Inside: ComponentType): ComponentType {
  return function Guarded() {
    return <Guard name={name}><Inside /></Guard>;
  };
}
