/* The kind of an AArch64 instruction, by its encoding (Arm Architecture Reference Manual, C4.1). Those of scalable
 * vectors, which no core here has, are taken for scalar ones. */
#include <stdint.h>

/* `MULTIPLY` is of vectors and of floating point: products, with or without an addition, of any width of numbers. */
enum kind { MULTIPLY, VECTOR, LOAD, STORE, SCALAR, BRANCH, KINDS };

static uint32_t bits(uint32_t word, int high, int low) { return word >> low & ((2u << (high - low)) - 1); }

static int is_set(uint32_t set, uint32_t number) { return set >> number & 1; }

/* Among "data processing: scalar floating point and Advanced SIMD": vectors by their registers, by one element of a
 * register, and scalars. */
static enum kind vector_kind(uint32_t word)
{
    const uint32_t same = 1u << 0x12 | 1u << 0x13 | 1u << 0x16 | 1u << 0x19 | 1u << 0x1b; /* MLA MUL SQDMULH FMLA FMUL */
    const uint32_t different = 0x3fu << 8; /* SMLAL … SQDMULL */
    const uint32_t extra = 0x1fu | 0xfu << 8 | 1u << 13 | 1u << 15; /* SQRDMLAH … SDOT … SMMLA, FCMLA, BFMMLA, BFDOT */
    uint32_t form = bits(word, 28, 24), last = bits(word, 11, 10);
    int product = 0;
    if (bits(word, 31, 24) == 0x1f || ((form & 15) == 0x0f && bits(word, 30, 30) >= bits(word, 28, 28) && !(last & 1))) {
        product = 1; /* FMADD and its like; all by one element */
    } else if (bits(word, 31, 24) == 0x1e) {
        product = bits(word, 21, 21) && last == 2 && (bits(word, 15, 12) & 7) == 0; /* FMUL, FNMUL */
    } else if (form == 0x0e && !bits(word, 21, 21)) {
        int half = bits(word, 22, 22) && bits(word, 15, 14) == 0 && is_set(1u << 1 | 1u << 3, bits(word, 13, 11));
        product = (last & 1) && (half || (bits(word, 15, 15) && is_set(extra, bits(word, 14, 11)))); /* half: FMLA FMUL */
    } else if (form == 0x0e && last == 0) {
        product = is_set(different, bits(word, 15, 12));
    } else if (form == 0x0e && (last & 1)) {
        product = is_set(same, bits(word, 15, 11));
    }
    return product ? MULTIPLY : VECTOR;
}

static enum kind kind_of(uint32_t word)
{
    uint32_t group = bits(word, 28, 25);
    if ((group & 7) == 7) {
        return vector_kind(word);
    }
    if ((group & 5) == 4) { /* loads and stores */
        if (bits(word, 29, 27) == 3 && !bits(word, 24, 24)) {
            return LOAD; /* from beside the code */
        }
        if (bits(word, 29, 27) == 7) { /* one register: 00 stores, and 10 of vectors, which is their 128 bits */
            uint32_t operation = bits(word, 23, 22);
            return operation == 0 || (operation == 2 && bits(word, 26, 26)) ? STORE : LOAD;
        }
        return bits(word, 22, 22) ? LOAD : STORE;
    }
    return (group & 14) == 10 ? BRANCH : SCALAR;
}
