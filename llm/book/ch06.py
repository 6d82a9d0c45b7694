"""Chapter 6: where its names are. The pipeline does all of its steps, so there is no second version here.

create_balanced_dataset -> llm/data/spam.py:balanced_splits
random_split -> llm/data/spam.py:balanced_splits
SpamDataset -> llm/data/spam_dataset.py:SpamDataset
calc_accuracy_loader -> llm/evaluate/accuracy.py:measure_splits
train_classifier_simple -> llm/train/loop.py:fit
classify_review -> llm/evaluate/accuracy.py:predict
"""
