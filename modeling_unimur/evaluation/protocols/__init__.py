"""The papers' protocols: readers, pools, measures and tables, one function a task.

`results` has the tables; it is not imported here, as it takes PyTorch, and a command's help should not.
"""

from .options import TaskOptions
from .registry import TASKS, Task, register_task, task_function

__all__ = ["TASKS", "Task", "TaskOptions", "register_task", "task_function"]
