"""The whole pipeline in one command, from a teacher to a finished model: on the embedded emoji, or on photographs.

__main__.py      command: print the plan, run, print the tables
options.py       options, recipes and plans; imports neither torch nor transformers
run.py           the run on emoji: train, evaluate, time, collect results, write the Hub folder
make_teacher.py  command: train its teacher, which is in mini_teacher/
photos.py        the run on photographs: teacher, both stages, evaluation, export
pretrained.py    command: write the pretrained towers of the teacher of photographs, from pip packages
e5.py            weights and tokenizer of multilingual-e5-small
student.yaml, augment.yaml: shared by the recipes training/configs/demo_*.yaml
"""
