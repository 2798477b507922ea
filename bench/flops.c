// Multiplications and additions of a network's halves in their direct form, from its graph, as one
// JSON object:
//     build/bench/flops DI8x8 FRAMES HEIGHT WIDTH    ->    {"encode": 3.5e11, "decode": 9.3e11}
// What it leaves out: norms, Haar, pooling and FSQ, which are under 1 %.
#include <stdlib.h>

#include "../tests/native/spec.h"

static double flops_of(const graph *g) {
    double total = 0;
    for (int32_t n = 0; n < g->num_nodes; n++) {
        const graph_node *node = &g->nodes[n];
        if (node->kind == OP_CONV) {
            const conv_params *p = &node->params.conv;
            total += 2.0 * (double)(p->kernel * p->kernel * p->kernel_t) * (double)p->in.c *
                     (double)shape_elements(p->out);
        } else if (node->kind == OP_ATTENTION) {
            ctok_shape s = node->params.attention.shape;
            double keys =
                node->params.attention.is_temporal ? (double)(s.t + 1) / 2 : (double)(s.h * s.w);
            total += 4.0 * keys * (double)shape_elements(s);
        }
    }
    return total;
}

int main(int argc, char **argv) {
    description d;
    if (argc != 5 || !find_spec(&d, argv[1], false)) {
        fprintf(stderr, "usage: flops MODEL FRAMES HEIGHT WIDTH\n");
        return 2;
    }
    graph encoder = {0}, decoder = {0};
    spec_graphs(&encoder, &decoder, &d, atoll(argv[2]), atoll(argv[3]), atoll(argv[4]));
    printf("{\"encode\": %.4e, \"decode\": %.4e}\n", flops_of(&encoder), flops_of(&decoder));
    return encoder.is_out_of_memory || decoder.is_out_of_memory;
}
