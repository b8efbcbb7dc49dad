// The kernel Image of pytest_xhyve/hypervisors/qemu/proof_programs.py, for GNU as on aarch64.
//
// It does what a kernel does first (Arm ARM, D8): it turns on the MMU and the caches, with blocks of 1 GiB. Until then, a
// processor fetches each instruction from memory. Then it counts to 2^26, which a CPU does in a tenth of a second, and
// what only decodes instructions one by one in minutes. At last it writes a letter, and turns the machine off.
        .set UART, 0x09000000           // PL011, hw/arm/virt.c in QEMU's sources
        .set SYSTEM_OFF, 0x84000008     // PSCI, Arm DEN 0022

// The header: Linux, Documentation/arch/arm64/booting.rst.
        b       start
        .word   0
        .quad   0                       // text_offset
        .quad   1 << 16                 // image_size
        .quad   0
        .quad   0, 0, 0
        .ascii  "ARM\x64"
        .word   0
start:
        mov     x0, 0xff00              // 0: device; 1: cached memory
        msr     mair_el1, x0
        ldr     w0, control
        msr     tcr_el1, x0
        adr     x0, table
        msr     ttbr0_el1, x0
        tlbi    vmalle1
        dsb     sy
        isb
        mrs     x0, sctlr_el1
        mov     w1, 0x1005              // M, C, I
        orr     x0, x0, x1
        msr     sctlr_el1, x0
        isb

        mov     x3, 1 << 26
count:
        subs    x3, x3, 1
        b.ne    count
        mov     x1, UART
        mov     w2, 'k'
        str     w2, [x1]
        ldr     w0, off
        hvc     0
        b       .

control:                                // 4 GiB from TTBR0, pages of 4 KiB, cached and shared tables; TTBR1 is off
        .word   32 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23
off:
        .word   SYSTEM_OFF
        .balign 64
table:                                  // blocks that were accessed
        .quad   0x00000000 | 1 | 0 << 2 | 1 << 10 | 3 << 53     // devices: never executed
        .quad   0x40000000 | 1 | 1 << 2 | 3 << 8 | 1 << 10      // memory: shared
        .quad   0, 0
