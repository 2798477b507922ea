// The Cosmos tokenizers of NVIDIA: images and videos, continuous and FSQ. What the network is made
// of is cosmos_variant.h's. Who includes it: families.c, and tools that build a network without a
// checkpoint.
#ifndef CTOK_NETWORK_COSMOS_H
#define CTOK_NETWORK_COSMOS_H

#include "cosmos_variant.h"
#include "family.h"

extern const network_family cosmos_family;

// Fills in the description of a variant, but for its name and facts.
void cosmos_set_variant(description *d, const variant *v);

#endif
