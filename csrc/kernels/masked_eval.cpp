#include "masked_eval.h"

#include "contributions.h"
#include "row_metric.h"

namespace shapley {

namespace SHAPLEY_ISA {
namespace {

struct Scratch {
  double* totals;      // [kBatch]
  double* block_sums;  // [kBatch]
  float* values;       // [kTile]
  float* state;        // [kTile, 3]
  float* outputs;      // [kTile, kLanes]
  float* tables;       // [kPass, kEntries, kLanes]
  float* table;        // S > 1: the sample's contributions
  uint8_t* codes;      // [groups, kCodeStride]: which sum of the group's table a mask takes
};

Scratch carve(const MaskedEvalParams& params) {
  Scratch scratch;
  scratch.totals = static_cast<double*>(params.scratch);
  scratch.block_sums = scratch.totals + kBatch;
  scratch.values = reinterpret_cast<float*>(scratch.block_sums + kBatch);
  scratch.state = scratch.values + kTile;
  scratch.outputs = scratch.values + 4 * kTile;
  scratch.tables = scratch.outputs + kTile * kMaxLanes;
  scratch.table = scratch.tables + kPass * kEntries * kMaxLanes;
  const int64_t outputs = round_up(params.head.n_outputs, kMaxLanes);
  scratch.codes =
      reinterpret_cast<uint8_t*>(scratch.table + (params.head.n_positions > 1 ? outputs * params.head.n_players : 0));
  return scratch;
}

const bool* mask_row(const MaskedEvalParams& params, int64_t position) {
  const int64_t m = params.order ? params.order[position] : position;
  return params.masks + m * params.head.n_players;
}

// Bit i of the result is whether mask[i] is kept, i < kGroup; entries from `left` on do not exist.
inline uint8_t encode_group(const bool* mask, int64_t left) {
  if (left >= 8) {
    // Eight bytes at once: the product collects their lowest bits in its top byte.
    uint64_t bytes;
    __builtin_memcpy(&bytes, mask, 8);
    return static_cast<uint8_t>((bytes * 0x0102040810204080) >> 56 & (kEntries - 1));
  }
  unsigned code = 0;
  for (int64_t i = 0; i < kGroup && i < left; ++i) code |= static_cast<unsigned>(mask[i]) << i;
  return static_cast<uint8_t>(code);
}

void encode_masks(const MaskedEvalParams& params, int64_t first, int64_t count, uint8_t* codes) {
  const int64_t n_players = params.head.n_players, groups = mask_groups(params.head);
  for (int64_t m = 0; m < count; ++m) {
    const bool* mask = mask_row(params, first + m);
    for (int64_t group = 0; group < groups; ++group) {
      codes[group * kCodeStride + m] = encode_group(mask + group * kGroup, n_players - group * kGroup);
    }
  }
}

// One panel of outputs of one sample.
struct Panel {
  const float* features;  // [C], where S = 1
  const float* columns;   // [C, kLanes]: weight where S = 1, else contributions
  VecF bias;
  int64_t n_players;
};

template <bool has_table>
inline VecF contribution(const Panel& panel, int64_t c) {
  const VecF column = load(panel.columns + c * kLanes);
  return has_table ? column : splat(panel.features[c]) * column;
}

template <bool has_table>
VecF masked_outputs(const Panel& panel, const bool* mask) {
  VecF outputs = panel.bias;
  for (int64_t first = 0; first < panel.n_players; first += kGroup) {
    const int64_t end = first + kGroup < panel.n_players ? first + kGroup : panel.n_players;
    VecF sum = splat(0.0f);
    for (int64_t c = first; c < end; ++c) {
      const VecI keep = splat_int(-static_cast<int32_t>(mask[c]));
      sum += as_float(as_int(contribution<has_table>(panel, c)) & keep);
    }
    outputs += sum;
  }
  return outputs;
}

template <bool has_table>
void fill_table(const Panel& panel, int64_t group, float* table) {
  store(table, splat(0.0f));
  for (int64_t i = 0; i < kGroup && group * kGroup + i < panel.n_players; ++i) {
    const VecF added = contribution<has_table>(panel, group * kGroup + i);
    for (int64_t entry = 0; entry < int64_t{1} << i; ++entry) {
      store(table + ((int64_t{1} << i) + entry) * kLanes, load(table + entry * kLanes) + added);
    }
  }
}

template <int n_tables>
void add_tables(const float* tables, const uint8_t* codes, int64_t count, float* outputs) {
  for (int64_t m = 0; m < count; ++m) {
    VecF sum = load(outputs + m * kLanes);
    for (int t = 0; t < n_tables; ++t) sum += load(tables + (t * kEntries + codes[t * kCodeStride + m]) * kLanes);
    store(outputs + m * kLanes, sum);
  }
}

// The outputs of a tile of masks for one panel, by tables.
template <bool has_table>
void tile_outputs(const Panel& panel, const uint8_t* codes, int64_t count, const Scratch& scratch) {
  const int64_t groups = (panel.n_players + kGroup - 1) / kGroup;
  for (int64_t m = 0; m < count; ++m) store(scratch.outputs + m * kLanes, panel.bias);
  for (int64_t group = 0; group < groups;) {
    const int64_t left = groups - group;
    const int64_t n_tables = left >= kPass ? kPass : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    for (int64_t t = 0; t < n_tables; ++t) {
      fill_table<has_table>(panel, group + t, scratch.tables + t * kEntries * kLanes);
    }
    const uint8_t* code = codes + group * kCodeStride;
    switch (n_tables) {
      case kPass: add_tables<kPass>(scratch.tables, code, count, scratch.outputs); break;
      case 4: add_tables<4>(scratch.tables, code, count, scratch.outputs); break;
      case 2: add_tables<2>(scratch.tables, code, count, scratch.outputs); break;
      default: add_tables<1>(scratch.tables, code, count, scratch.outputs);
    }
    group += n_tables;
  }
}

// scratch.values[0 .. count-1] = the metric of one sample under the masks at positions first .. of a tile; `codes` are
// those of the first, or null to sum directly.
template <Metric metric, bool has_table>
void evaluate_tile(const MaskedEvalParams& params, const Scratch& scratch, int64_t sample, int64_t first, int64_t count,
                   const uint8_t* codes) {
  const HeadParams& head = params.head;
  const int64_t n_players = head.n_players, n_outputs = head.n_outputs;
  const int64_t n_panels = (n_outputs + kLanes - 1) / kLanes;
  const RowTarget target = row_target(head, sample);
  for (int64_t p = 0; p < n_panels; ++p) {
    const int64_t first_output = p * kLanes;
    const int64_t n_columns = n_outputs - first_output < kLanes ? n_outputs - first_output : kLanes;
    const Panel panel = {head.features + sample * n_players,
                         (has_table ? scratch.table : head.weight) + p * n_players * kLanes,
                         load(head.bias + first_output), n_players};
    if (codes) tile_outputs<has_table>(panel, codes, count, scratch);
    for (int64_t m = 0; m < count; m += kLanes) {
      VecF square[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) {
        square[i] = m + i >= count ? splat(0.0f)
                    : codes        ? load(scratch.outputs + (m + i) * kLanes)
                                   : masked_outputs<has_table>(panel, mask_row(params, first + m + i));
      }
      transpose(square);
      RowMetric rows = p == 0 ? begin_metric() : load_metric(scratch.state + 3 * m);
      add_columns<metric>(rows, square, n_columns, first_output, target);
      if (p + 1 < n_panels) {
        store_metric(scratch.state + 3 * m, rows);
      } else {
        store(scratch.values + m, finish_metric<metric>(rows, n_outputs, target));
      }
    }
  }
}

// Calls take(i, value) with the value of mask first + i, for i in order.
template <Metric metric, class Take>
void evaluate_masks(const MaskedEvalParams& params, const Scratch& scratch, int64_t sample, int64_t first,
                    int64_t count, const Take& take) {
  const bool has_table = params.head.n_positions > 1;
  if (has_table) {
    sample_contributions(params.head, sample, count == 1 ? mask_row(params, first) : nullptr, scratch.table);
  }
  const double baseline = params.baseline ? params.baseline[sample] : 0.0f;
  for (int64_t tile = 0; tile < count; tile += kTile) {
    const int64_t size = count - tile < kTile ? count - tile : kTile;
    const uint8_t* codes = count >= kTableMasks ? scratch.codes + tile : nullptr;
    if (has_table) {
      evaluate_tile<metric, true>(params, scratch, sample, first + tile, size, codes);
    } else {
      evaluate_tile<metric, false>(params, scratch, sample, first + tile, size, codes);
    }
    for (int64_t i = 0; i < size; ++i) take(tile + i, static_cast<double>(scratch.values[i]) - baseline);
  }
}

// scratch.block_sums[i] = the sum over one block of samples for mask first + i.
template <Metric metric>
void sum_block(const MaskedEvalParams& params, const Scratch& scratch, int64_t block, int64_t first, int64_t count) {
  const int64_t begin = block * kMeanBlock, n_samples = params.head.n_samples;
  const int64_t end = begin + kMeanBlock < n_samples ? begin + kMeanBlock : n_samples;
  double* sums = scratch.block_sums;
  for (int64_t i = 0; i < count; ++i) sums[i] = 0.0;
  for (int64_t sample = begin; sample < end; ++sample) {
    evaluate_masks<metric>(params, scratch, sample, first, count, [&](int64_t i, double value) { sums[i] += value; });
  }
}

inline int64_t batch_end(int64_t first, int64_t end) {
  return first + kBatch < end ? first + kBatch : end;
}

template <Metric metric>
void mean_per_mask(const MaskedEvalParams& params, const Scratch& scratch, int64_t begin, int64_t end) {
  const int64_t n_blocks = mean_blocks(params.head);
  for (int64_t first = begin; first < end; first += kBatch) {
    const int64_t count = batch_end(first, end) - first;
    if (count >= kTableMasks) encode_masks(params, first, count, scratch.codes);
    for (int64_t i = 0; i < count; ++i) scratch.totals[i] = 0.0;
    for (int64_t block = 0; block < n_blocks; ++block) {
      sum_block<metric>(params, scratch, block, first, count);
      for (int64_t i = 0; i < count; ++i) scratch.totals[i] += scratch.block_sums[i];
    }
    for (int64_t i = 0; i < count; ++i) {
      params.out[first + i] = static_cast<float>(scratch.totals[i] / static_cast<double>(params.head.n_samples));
    }
  }
}

template <Metric metric>
void sums_per_block(const MaskedEvalParams& params, const Scratch& scratch, int64_t begin, int64_t end) {
  for (int64_t first = 0; first < params.n_masks; first += kBatch) {
    const int64_t count = batch_end(first, params.n_masks) - first;
    if (count >= kTableMasks) encode_masks(params, first, count, scratch.codes);
    for (int64_t block = begin; block < end; ++block) {
      sum_block<metric>(params, scratch, block, first, count);
      double* sums = params.block_sums + block * params.n_masks + first;
      for (int64_t i = 0; i < count; ++i) sums[i] = scratch.block_sums[i];
    }
  }
}

template <Metric metric>
void mask_per_sample(const MaskedEvalParams& params, const Scratch& scratch, int64_t begin, int64_t end) {
  for (int64_t first = begin; first < end;) {
    const int64_t sample = params.sample_index[params.order[first]];
    int64_t last = first + 1;
    while (last < batch_end(first, end) && params.sample_index[params.order[last]] == sample) ++last;
    if (last - first >= kTableMasks) encode_masks(params, first, last - first, scratch.codes);
    evaluate_masks<metric>(params, scratch, sample, first, last - first, [&](int64_t i, double value) {
      params.out[params.order[first + i]] = static_cast<float>(value);
    });
    first = last;
  }
}

template <Metric metric>
void evaluate(const MaskedEvalParams& params, int64_t begin, int64_t end) {
  const Scratch scratch = carve(params);
  if (params.sample_index) return mask_per_sample<metric>(params, scratch, begin, end);
  if (params.block_sums) return sums_per_block<metric>(params, scratch, begin, end);
  mean_per_mask<metric>(params, scratch, begin, end);
}

}  // namespace

void masked_eval_cpu(const MaskedEvalParams& params, int64_t begin, int64_t end) {
  switch (params.head.metric) {
    case Metric::kCrossEntropy: return evaluate<Metric::kCrossEntropy>(params, begin, end);
    case Metric::kAccuracy: return evaluate<Metric::kAccuracy>(params, begin, end);
    default: return evaluate<Metric::kSquaredError>(params, begin, end);
  }
}

}  // namespace SHAPLEY_ISA
}  // namespace shapley
