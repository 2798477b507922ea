// How an engine ends: closed by its owner, or together with the thread that opened it. Workers of a
// JavaScript runtime end without running another line of their code, so what they opened must be
// released from here. Who calls it: abi.c.
#ifndef CTOK_RUNTIME_LIFETIME_H
#define CTOK_RUNTIME_LIFETIME_H

#include "engine.h"
#include "model.h"

// An engine that ends with this thread where `options` says so. Errors: those of engine_open;
// CTOK_E_THREAD when the system has no place to remember it (detail: errno).
ctok_status lifetime_open(uint32_t *id, const ctok_engine_options *options, ctok_wake wake,
                          ctok_error *error);

// Takes out the engine's id and closes it and its models. Jobs that have ended keep their ids.
// Nothing when it is closed.
void lifetime_close(engine *e);

// Takes out a model's id and closes it; its streams are closed with it.
void lifetime_close_model(model *m);

#endif
