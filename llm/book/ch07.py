"""Chapter 7: where its names are. The pipeline does all of its steps, so there is no second version here.

download_and_load_file -> llm/data/download.py:fetch
format_input -> llm/data/prompts.py:format_prompt
InstructionDataset -> llm/data/instruction_dataset.py:InstructionDataset
custom_collate_fn -> llm/data/instruction_dataset.py:InstructionDataset.batch
check_if_running -> llm/evaluate/judge_servers.py:Server
query_model -> llm/evaluate/judge_servers.py:Server.ask
generate_model_scores -> llm/evaluate/judge.py:judge
"""
