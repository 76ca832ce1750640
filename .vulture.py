"""What `vulture` takes for unused and is not, each with its reason. `make lint` reads this file; nobody runs it."""

# Read by name: a module's hooks, and settings of pydantic, alembic and SQLAlchemy.
__getattr__
__dir__
model_config
down_revision
branch_labels
depends_on
isolation_level
_known

# Set on a module or a configuration of transformers, which reads it.
sliding_window

# Loaded by name from METHODS.
GDPO

# Shown by name: what a part does, in the table of `paretune methods`.
does

# Called or read by the library whose class it overrides: uvicorn's server, prometheus' registry, a transformers tokenizer and
# trainer callbacks.
handle_exit
sig
should_exit
force_exit
collect
truncation_side
on_step_begin
on_step_end
train_dataset

# Called by vLLM.
resolve_lora

# Fields that requests of OpenAI clients may carry; they are accepted and have no effect.
include_obfuscation

# Fields of records that are written as JSON or shown to a reader as they are.
nearest_floors
layered
p_value
validation_pairs
train_accuracy
cached_tokens
tokens_per_second
survivors
log_loss
accuracy_shorter
accuracy_longer

# Options of `paretune serve`, which hands all of them on together; and the part of a cache's key that renews an entry.
api_key_file
no_key
allow_host
allow_origin
no_store
upstream_kind
modified

# Read as a key of a manifest.
prompt_ends_with

# Read by rich: how a column's cells wrap.
overflow
# Called by users alone: what a notebook starts with.
to_frame
# Read as a key of a stage.json.
itself

# Offered to users of Python: the exact distribution of linear alignment, which tests compare decoding with.
distribution_behind

# Set on a tokenizer of the package tokenizers: where it splits a text.
pre_tokenizer

# A key of the records of training, which only some of them have.
sampled_tokens

# Read in a report of a reward model, as a key.
train_pairs

# The class of a block of a model, which gets another one.
__class__
