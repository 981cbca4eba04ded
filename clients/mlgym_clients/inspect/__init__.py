"""For Inspect (inspect_ai): our tasks as its tasks, our sandbox as one of its sandboxes. See docs/inspect.md."""
