"""What stuck in people's first hour with data of their own, each with the tests that keep it mended."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
MENDED: Mapping[str, tuple[str, ...]] = {
    "S1: a head is fitted under the default splits and seed": (
        "runs/test_data_of_runs.py::test_a_head_is_fitted_under_the_default_splits_and_seed",
        "runs/test_fitted_head_run.py::test_a_judge_is_fitted_measured_and_used_under_the_default_splits_and_seed",
    ),
    "S2: long pairs are counted before pairs are drawn, and the report has the counts": (
        "training/test_too_long.py::test_by_default_pairs_beyond_the_positions_are_left_out_and_counted",
        "training/test_too_long.py::test_a_row_whose_widest_pair_is_too_long_gives_its_next_one",
    ),
    "S3: answers are the base model's own only where the run sampled them": (
        "choosing/test_floors.py::test_a_choice_says_whose_responses_meet_the_floors",
    ),
    "S4: the signature of a scoring function is on the page and is what is called": (
        "docs/test_snippets.py::test_the_page_on_data_has_a_scorer_that_scores",
        "scoring/test_scorer.py::test_function_is_called_with_messages",
    ),
    "S5: a run is numbers, and runs compare": (
        "runs/test_scores.py::test_a_frame_has_a_row_for_each_policy_preference_and_objective",
        "runs/test_scores.py::test_runs_compare_at_common_preferences_on_common_prompts",
        "runs/test_share_data.py::test_a_run_keeps_its_answers_with_their_scores",
    ),
    "S6: the judge's accuracy and the prompts that it saw": (
        "runs/test_scores.py::test_a_head_that_saw_the_held_out_prompts_or_is_not_shown_to_beat_chance_is_a_caution",
        "reports/test_next_steps.py::test_a_weak_judge_and_one_that_saw_the_prompts_are_named",
        "reports/test_trust.py::test_a_fitted_judge_is_shown_with_its_accuracy_and_with_the_held_out_prompts_that_it_saw",
    ),
    "S7: exports have a number format, overwrite nothing of others, and load by name": (
        "policies/test_export.py::test_a_policy_loads_and_is_exported_in_the_number_format_of_its_run",
        "policies/test_saving.py::test_a_model_or_lora_of_another_program_is_not_replaced",
        "policies/test_travel.py::test_an_exported_lora_is_loaded_by_peft_alone",
    ),
    "S8: a dial on a weak front says why it turns by weights": (
        "choosing/test_dial_stops.py::test_where_one_preference_is_best_on_everything_the_dial_turns_by_weights_and_says_so",
        "choosing/test_dial_stops.py::test_equal_stops_are_merged_and_the_ends_stay_at_the_ends",
        "serving/http/test_studio_weak_front.py::"
        "test_where_one_preference_is_best_on_everything_the_page_says_so_and_the_dial_turns_by_weight",
    ),
    "S9: what CONTRIBUTING adds is added in the places that it names": (
        "docs/test_contributing.py::test_a_method_and_a_rule_added_so_are_planned_run_and_listed",
        "docs/test_contributing.py::test_a_scorer_with_a_model",
    ),
    "S10: what to do next": (
        "reports/test_next_steps.py::test_no_movement_asks_for_steps_and_says_how_many_prompts_would_show_it",
        "reports/test_next_steps.py::test_cut_answers_ask_for_longer_ones",
        "reports/test_steering_words.py::test_where_no_movement_is_shown_nothing_says_steerable_whatever_the_weights_are",
    ),
    "S11: one message for a device that is not there and for a wrong column map": (
        "models/test_loading.py::test_a_device_that_is_not_there_is_refused",
        "data/test_load.py::test_bad_column_maps_name_the_place",
    ),
    "S12: no column that looks like data is left out in silence": (
        "data/test_given.py::test_a_file_is_the_right_rows_or_a_message_with_the_cure",
        "data/test_given.py::test_columns_left_out_knowingly_are_no_error",
    ),
    "S13: nested columns, objects of responses, the first that always wins, a path beside its map": (
        "data/test_load.py::test_a_column_map_reads_inside_columns",
        "data/test_load.py::test_a_column_map_reads_an_object_of_responses",
        "data/test_load.py::test_a_column_map_of_pairs",
        "cli/test_data_command.py::test_the_path_of_a_column_map_counts_from_its_folder_too",
    ),
    "S14: a folder belongs to one run": (
        "runs/test_run_folder.py::test_two_runs_do_not_work_in_one_folder",
        "runs/test_run_folder.py::test_a_config_over_other_objectives_is_refused_in_the_folder_of_a_run",
        "runs/test_run_folder.py::test_the_config_in_the_folder_is_that_of_its_front_until_there_is_another_front",
    ),
    "S15: the small things": (
        "docs/test_config_page.py::test_the_page_is_that_of_the_settings",
        "runs/test_keys.py::test_a_mistake_does_not_load_torch",
        "runs/test_status.py::test_a_run_says_its_time_first_then_each_stage_and_leaves_its_status",
        "docs/test_environment.py::test_exit_codes_are_those_of_the_page",
        "models/test_hub_reach.py::test_a_mistyped_model_is_said_within_seconds",
        "cli/test_log.py::test_no_name_is_cut_in_a_table",
        "data/test_summary.py::test_tables_of_many_objectives_fit_80_columns",
        "runs/test_plan.py::test_heads_that_are_fitted_are_planned_by_the_texts_they_read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", MENDED)
def test_each_has_tests(what: str) -> None:
    for place in MENDED[what]:
        file, _, name = place.partition("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in functions, place


def test_all_fifteen_are_here() -> None:
    assert [what.partition(":")[0] for what in MENDED] == [f"S{n}" for n in range(1, 16)]
