"""Canvas as a Space: the editor for everybody. Everything works without a GPU."""

try:
    import spaces  # ahead of torch, as it asks: it lends a GPU for seconds, where the Space has ZeroGPU
except ImportError:
    spaces = None

from canvas_ui.public import launch


def on_gpu(job, *arguments):
    """Run a job where a GPU is, if there is one. A Space on ZeroGPU must offer such a function before it starts."""
    return job(*arguments)


if spaces is not None:
    on_gpu = spaces.GPU(duration=15)(on_gpu)  # a visitor who has not logged in has two minutes a day


if __name__ == "__main__":
    launch()
