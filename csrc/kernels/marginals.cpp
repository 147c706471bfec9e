#include "marginals.h"

namespace shapley::SHAPLEY_ISA {
namespace {

template <class Value>
void add_tile(const MarginalsParams& p, int64_t tile) {
  const int64_t n = p.n_players;
  double* const sum = p.partials + tile * 3 * n;
  double* const squares = sum + n;
  double* const total = squares + n;
  for (int64_t c = 0; c < 2 * n; ++c) sum[c] = 0.0;
  const double block = static_cast<double>(p.block);
  const int64_t first = tile * p.walks_per_tile;
  const int64_t last = first + p.walks_per_tile < p.n_walks ? first + p.walks_per_tile : p.n_walks;
  for (int64_t walk = first; walk < last; ++walk) {
    const Value* const v = static_cast<const Value*>(p.values) + walk * (n + 1);
    const int32_t* const players = p.permutations + walk * n;
    const int64_t place = walk % p.block;
    const bool starts = place == 0;
    const bool ends = place == p.block - 1;
    for (int64_t j = 0; j < n; ++j) {
      const int32_t player = players[j];
      const double step = static_cast<double>(v[j + 1]) - static_cast<double>(v[j]);
      const double so_far = starts ? step : total[player] + step;
      if (ends) {
        const double mean = so_far / block;
        sum[player] += so_far;
        squares[player] += mean * mean;
      } else {
        total[player] = so_far;
      }
    }
  }
}

}  // namespace

void marginals_cpu(const MarginalsParams& p, int64_t begin, int64_t end) {
  for (int64_t tile = begin; tile < end; ++tile) p.wide ? add_tile<double>(p, tile) : add_tile<float>(p, tile);
}

void marginals_sum_cpu(const MarginalsParams& p, int64_t begin, int64_t end) {
  const int64_t n = p.n_players;
  for (int64_t which = 0; which < 2; ++which) {
    double* const out = which == 0 ? p.sum : p.squares;
    for (int64_t c = begin; c < end; ++c) out[c] = 0.0;
    for (int64_t tile = 0; tile < p.n_tiles; ++tile) {
      const double* const partial = p.partials + (3 * tile + which) * n;
      for (int64_t c = begin; c < end; ++c) out[c] += partial[c];
    }
  }
}

}  // namespace shapley::SHAPLEY_ISA
