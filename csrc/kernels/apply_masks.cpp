#include "apply_masks.h"

#include <string.h>

namespace shapley::SHAPLEY_ISA {
namespace {

template <class Element>
void select_channels_last(const void* x, const bool* mask, void* out, int64_t n_positions, int64_t n_players) {
  const Element* from = static_cast<const Element*>(x);
  Element* to = static_cast<Element*>(out);
  for (int64_t s = 0; s < n_positions; ++s, from += n_players, to += n_players) {
#pragma omp simd
    for (int64_t c = 0; c < n_players; ++c) to[c] = from[c] & (Element{0} - static_cast<Element>(mask[c]));
  }
}

void select_channels_first(const char* from, const bool* mask, char* to, int64_t n_players, int64_t channel_bytes) {
  int64_t c = 0;
  while (c < n_players) {  // runs of channels that share a fate
    const int64_t start = c;
    while (c < n_players && mask[c] == mask[start]) ++c;
    const size_t bytes = static_cast<size_t>((c - start) * channel_bytes);
    if (mask[start]) {
      memcpy(to + start * channel_bytes, from + start * channel_bytes, bytes);
    } else {
      memset(to + start * channel_bytes, 0, bytes);
    }
  }
}

}  // namespace

void apply_masks_cpu(const ApplyMasksParams& p, int64_t begin, int64_t end) {
  const int64_t channel_bytes = p.n_positions * p.element_bytes;
  const int64_t row_bytes = p.n_players * channel_bytes;
  // One position is a row of elements either way, and the select handles short channels better than copies do.
  const bool select = p.channels_last || p.n_positions == 1;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t sample = p.sample_index ? p.sample_index[row] : row % p.n_samples;
    const bool* mask = p.masks + (p.sample_index ? row : row / p.n_samples) * p.n_players;
    const char* from = static_cast<const char*>(p.x) + sample * row_bytes;
    char* to = static_cast<char*>(p.out) + row * row_bytes;
    if (!select) {
      select_channels_first(from, mask, to, p.n_players, channel_bytes);
    } else if (p.element_bytes == 2) {
      select_channels_last<uint16_t>(from, mask, to, p.n_positions, p.n_players);
    } else if (p.element_bytes == 4) {
      select_channels_last<uint32_t>(from, mask, to, p.n_positions, p.n_players);
    } else {
      select_channels_last<uint64_t>(from, mask, to, p.n_positions, p.n_players);
    }
  }
}

}  // namespace shapley::SHAPLEY_ISA
