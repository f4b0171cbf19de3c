"""The one-command demo on the embedded corpus, from teacher to model card.

__main__.py      command: print the plan, run, print the table and the next commands
options.py       options, recipes and plan; imports neither torch nor transformers
run.py           the run: train, evaluate, collect results, write the Hub folder
example.py       the example image of the card
report.py        latency and tables
figures.py       learning curves and contact sheet
folders.py       output folders, removed only if the demo wrote them
photo_plan.py    recipes and plan of the run on a user's own photographs
photo_run.py     that run, from teacher to exported files
photo_vocabulary.py  the tokenizer of the shipped model, related to the teacher's
make_teacher.py  train the demo's teacher
mini_teacher/    the demo's teacher
photo_teacher/   a teacher for photographs, built from pip packages
photo_model/     the finished model of photographs: its Hub folder, figures and card
student.yaml, augment.yaml: shared by the recipes training/configs/demo_*.yaml
"""
