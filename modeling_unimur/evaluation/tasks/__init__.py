"""The papers' protocols: readers, pools, measures and tables, one function per task.

No task is imported here, as tasks take PyTorch, and a command's help should not.
"""

from .options import TaskOptions
from .registry import TASKS, Task, task_function

__all__ = ["TASKS", "Task", "TaskOptions", "task_function"]
