// firmware/rtl/array.sv for parts whose multipliers take 25 bits: two products in one.
//
// Weights of two outputs stand 16 bits apart in one operand. A product of u8 or s8 by s8 is at most
// 32640 in magnitude, so the lower one is the lowest 16 bits, signed; if it is negative it has
// borrowed one from the upper one, which is given back.
module edged_array #(
    parameter TI = 8,
    parameter TO = 8,
    parameter TP = 1,
    parameter R = 8  // channels of a group: min(TI, TO)
) (
    input  wire                        clk,
    input  wire                        valid,
    input  wire                        is_signed,
    input  wire                        high,
    input  wire                        first,
    input  wire                        last,
    input  wire [             1:0]     group,
    input  wire [TP * TI * 8 - 1:0]    x,
    input  wire [TI * TO * 8 - 1:0]    w,
    output wire [TP * R * 32 - 1:0]    sums
);
  localparam PAIRS = TO / 2;
  reg signed [8:0] x1[0:TP*TI-1];
  reg signed [24:0] w1[0:TI*PAIRS-1];
  reg signed [33:0] products[0:TP*PAIRS*TI-1];
  reg signed [31:0] trees[0:TP*TO-1];
  reg signed [31:0] accumulators[0:TP*TO-1];
  reg [TP*TO*32-1:0] results;
  reg valid1 = 0, valid2 = 0, valid3 = 0;
  reg high1, high2, first1, first2, first3, last1, last2, last3;
  integer p, i, o;
  reg signed [31:0] lower, upper;

  always @(posedge clk) begin
    if (valid3) begin
      for (o = 0; o < TP * TO; o = o + 1) begin
        accumulators[o] = first3 ? trees[o] : accumulators[o] + trees[o];
        if (last3) results[o*32+:32] <= accumulators[o];
      end
    end
    if (valid2) begin
      for (o = 0; o < TP * PAIRS; o = o + 1) begin
        lower = 0;
        upper = 0;
        for (i = 0; i < TI; i = i + 1) begin
          lower = lower + 32'($signed(products[o*TI+i][15:0]));
          upper = upper + 32'($signed(products[o*TI+i][33:16])) + 32'(products[o*TI+i][15]);
        end
        trees[2*o]   = high2 ? lower <<< 8 : lower;
        trees[2*o+1] = high2 ? upper <<< 8 : upper;
      end
    end
    if (valid1) begin
      for (p = 0; p < TP; p = p + 1)
        for (o = 0; o < PAIRS; o = o + 1)
          for (i = 0; i < TI; i = i + 1)
            products[(p*PAIRS+o)*TI+i] = x1[p*TI+i] * w1[o*TI+i];
    end
    if (valid) begin
      for (i = 0; i < TP * TI; i = i + 1) x1[i] = {is_signed & x[i*8+7], x[i*8+:8]};
      for (i = 0; i < TI; i = i + 1)
        for (o = 0; o < PAIRS; o = o + 1)
          w1[o*TI+i] = 25'($signed(w[(i*TO+2*o)*8+:8]))
              + {w[(i*TO+2*o+1)*8+7], w[(i*TO+2*o+1)*8+:8], 16'b0};
    end
    {valid3, high2, first3, last3} = {valid2, high1, first2, last2};
    {valid2, first2, last2} = {valid1, first1, last1};
    {valid1, high1, first1, last1} = {valid, high, first, last};
  end

  genvar lane, channel;
  generate
    for (lane = 0; lane < TP; lane = lane + 1)
      for (channel = 0; channel < R; channel = channel + 1)
        assign sums[(lane*R+channel)*32+:32] = results[(lane*TO+32'(group)*R+channel)*32+:32];
  endgenerate
endmodule
