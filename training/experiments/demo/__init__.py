"""The full pipeline in one command, from a teacher to a finished model, on the embedded emoji.

__main__.py      command: print the plan, run, print the tables
options.py       options, recipes and the plan; imports neither torch nor transformers
run.py           train, evaluate, time, collect results, write the Hub folder
make_teacher.py  command: train its teacher, which is in mini_teacher/
student.yaml, augment.yaml: shared by the recipes training/configs/demo_*.yaml
"""
