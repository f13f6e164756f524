"""The labeling application: a store of tasks and judgments, and the pages people judge them on.

``store`` is all that the stages need and imports neither torch nor gradio; ``serve`` is the
command behind ``align label``. Nothing here imports a stage.
"""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
