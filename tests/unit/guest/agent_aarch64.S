// The agent of pytest_xhyve/guest/agent.py, for GNU as on aarch64 Linux: see agent.S, which does the same.
        .set BUFFER, 0x500000           // the ELF header asks for memory here
        .set RECORD, 56
        .set READ, 63
        .set WRITE, 64
        .set EXIT, 93
_start:
message:
        mov     x19, BUFFER
        mov     x20, 8                  // first the length, then as much as it says
        bl      fill
        mov     x9, BUFFER
        ldr     x20, [x9]
        bl      fill
        mov     x19, BUFFER
        add     x19, x19, 8
call_next:
        ldr     x8, [x19]
        tbnz    x8, 63, answer
        ldp     x0, x1, [x19, 8]
        ldp     x2, x3, [x19, 24]
        ldp     x4, x5, [x19, 40]
        svc     0
        str     x0, [x19], RECORD
        b       call_next
answer:
        mov     x0, 1                   // write(1, BUFFER + 8, up to the end of the records)
        mov     x1, BUFFER
        add     x1, x1, 8
        sub     x2, x19, x1
        mov     x8, WRITE
        svc     0
        b       message
fill:                                   // read(0, x19, x20), until x20 bytes are there
        mov     x0, 0
        mov     x1, x19
        mov     x2, x20
        mov     x8, READ
        svc     0
        cmp     x0, 0
        b.le    leave
        add     x19, x19, x0
        subs    x20, x20, x0
        b.ne    fill
        ret
leave:                                  // exit(0) at the end of the input, of which read(2) has returned 0
        mov     x8, EXIT
        svc     0
