# The boot sector of pytest_xhyve/hypervisors/qemu/proof_programs.py, for GNU as; loaded at 0x7c00 in real mode.
#
# It does what a kernel does first (Intel SDM, volume 3A, section 10.8.5): switches on paging and long mode, with 2 MiB
# pages that map the first GiB. There it counts to 2^26, which a CPU does in a tenth of a second, and what only decodes
# instructions one by one in minutes. Its last deed is to end QEMU, through isa-debug-exit, with a code that nothing else
# gives.
        .set TABLES, 0x10000            # PML4, PDPT, page directory: a page each
        .code16
_start:
        cli
        xor     %ax, %ax
        mov     %ax, %ds
        mov     $(TABLES >> 4), %ax
        mov     %ax, %es
        cld
        xor     %di, %di
        xor     %eax, %eax
        mov     $(3 * 4096 / 4), %cx
        rep stosl
        movl    $(TABLES + 0x1000 + 3), %es:0           # present, writable
        movl    $(TABLES + 0x2000 + 3), %es:0x1000
        mov     $0x2000, %di
        mov     $0x83, %eax                             # the same, of 2 MiB
next_page:
        mov     %eax, %es:(%di)
        add     $0x200000, %eax
        add     $8, %di
        cmp     $0x3000, %di
        jne     next_page

        lgdt    gdt_pointer - _start + 0x7c00
        mov     %cr4, %eax
        or      $0x20, %eax                             # PAE
        mov     %eax, %cr4
        mov     $TABLES, %eax
        mov     %eax, %cr3
        mov     $0xc0000080, %ecx                       # EFER
        rdmsr
        or      $0x100, %eax                            # LME
        wrmsr
        mov     %cr0, %eax
        or      $0x80000001, %eax                       # PG, PE
        mov     %eax, %cr0
        ljmpl   $8, $(long_mode - _start + 0x7c00)

        .code64
long_mode:
        mov     $0x4000000, %ecx
count:
        dec     %ecx
        jnz     count
        mov     $0xf4, %edx
        mov     $0x10, %al
        out     %al, %dx
halt:
        hlt
        jmp     halt

        .align  8
gdt:
        .quad   0
        .quad   0x00209a0000000000                      # code, 64 bit
gdt_pointer:
        .word   . - gdt - 1
        .long   gdt - _start + 0x7c00
