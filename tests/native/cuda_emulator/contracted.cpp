// A product and a sum, as the flags of the kernels in contract_test make them: that test asks
// whether they were joined into one rounding.
extern "C" float contracted(float a, float b, float c) { return a * b + c; }
